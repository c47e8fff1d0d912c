"""Makes the input of this task: `python3 generate.py [FOLDER]` writes environment/data and tests/data below FOLDER.

The documents are written here as they should be, with the wrong state of each link beside it: `[text](right<<wrong>>)`. The table
of contents is left out in between; the tests hold the marked form. The files are committed; running this is not needed to run the task.
"""

import re
import sys
from pathlib import Path

MOVED = [("install.md", "start/setup.md"), ("start/setup.md", "guide/installation.md"), ("faq.md", "reference/questions.md"),
         ("old/cli.md", "reference/cli.md"), ("guide/errors.md", "guide/trouble.md"), ("notes.md", "attic/notes.md"), ("attic/notes.md", "attic/gone.md")]
RENAMED = [("guide/installation.md", "Quick start", "Install in 5 minutes"), ("reference/cli.md", "The `run` command", "`run`: start a job"),
           ("guide/trouble.md", "What's wrong?", "Réseau & proxies"), ("README.md", "Licence", "License")]

DOCS = {
    "README.md": """# Kestrel

Short notes. See [setup](guide/installation.md#install-in-5-minutes<<install.md#quick-start>>) first, then the [questions](reference/questions.md<<faq.md>>).

<!-- toc -->
TOC<<- [Old](#old)
- [Licence](#licence)>>
<!-- /toc -->

## What it does

It queues jobs. Details: [CLI](reference/cli.md#run-start-a-job<<reference/cli.md#the-run-command>>), [home page](https://example.com/install.md#quick-start).

```sh
# not a heading
## neither
kestrel run   # see [setup](install.md)
```

### Why not `cron`?

Read [above](#what-it-does) and the [terms](#license<<#licence>>). A path in code: `[x](install.md)`.

## What it does

### Ports & sockets #

## C# and F#

## License ##

Nobody answers [this one](notes.md#lost).
""",
    "guide/installation.md": """# Installation

<!-- toc -->
TOC<<>>
<!-- /toc -->

## Install in 5 minutes

1. Get it from [the list](../README.md#what-it-does-1).
2. Check [the errors](trouble.md#réseau--proxies<<errors.md#whats-wrong>>).

~~~~text
~~~
## still code
~~~~

#### Deep heading

## Résumé: naïve users, 東京

Back to the [start](../README.md#license<<../README.md#licence>>) or [mail us](mailto:docs@example.com).

##No heading without a blank

### See [the CLI](../reference/cli.md<<../old/cli.md>>) first

### See [the CLI](../reference/cli.md) first
""",
    "guide/trouble.md": """# Trouble

<!-- toc -->
TOC<<  - [Réseau & proxies](#rseau--proxies)
- [exit_code 3](#exit_code-3)>>
<!-- /toc -->

## Réseau & proxies

Proxy settings: [flags](../reference/cli.md#flags<<../old/cli.md#flags>>).

### exit_code 3

````md
```
## in a nested fence
```
````

### snake_case -- and dashes

## Trouble

See [install](installation.md#install-in-5-minutes<<installation.md#quick-start>>), [FAQ](../reference/questions.md#who<<../faq.md#who>>), [self](#trouble-1).
""",
    "reference/cli.md": """# Command line

<!-- toc -->
TOC<<- [The `run` command](#the-run-command)
- [Flags](#flags)>>
<!-- /toc -->

## `run`: start a job

Runs a job as in [Install](../guide/installation.md#install-in-5-minutes<<../install.md#quick-start>>) says.

## Flags

| flag | see |
|---|---|
| `-v` | [trouble](../guide/trouble.md<<../guide/errors.md>>) |
| `-q` | [quiet](questions.md#why-so-loud) |

##### Too deep for a list

### `--jobs=<n>`

### 2.1 Limits
""",
    "reference/questions.md": """# Questions

## Who?

No contents here, only [links](../guide/trouble.md#exit_code-3<<../guide/errors.md#exit_code-3>>) and [the job](cli.md#run-start-a-job<<../old/cli.md#the-run-command>>).

## Why so loud

A link `[in code](../faq.md)` and one [outside](cli.md#21-limits). An image: ![logo](../logo.svg)
""",
}


def wrong(text):
    """The marked text as the environment shows it."""
    text = re.sub(r"\([^()<>\s]*<<([^>\s]*)>>\)", r"(\1)", text)
    return re.sub(r"TOC<<(.*?)>>\n", lambda match: match[1] + "\n" if match[1] else "", text, flags=re.DOTALL)


def main(root):
    for name, text in DOCS.items():
        for folder, content in ((root / "environment" / "data" / "docs", wrong(text)), (root / "tests" / "data" / "marked", text)):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8", newline="\r\n" if name == "reference/questions.md" else "\n")
    data = root / "environment" / "data"
    (data / "docs" / "logo.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>\n', encoding="utf-8")
    (data / "moved.csv").write_text("old,new\n" + "".join(f"{old},{new}\n" for old, new in MOVED), encoding="utf-8")
    (data / "renamed.csv").write_text("file,old,new\n" + "".join(f"{file},{old},{new}\n" for file, old, new in RENAMED), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
