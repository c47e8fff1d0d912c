"""Any model behind OpenAI's HTTP interface: `wire` reads and `answers` writes its JSON, `server` serves it."""
