"""Names of programming languages: the world writes them in many ways, and data sets misspell them."""

from __future__ import annotations

_ALIASES = {
    "bash": ("sh", "shell", "shell-script", "shellscript", "zsh", "ksh", "console", "terminal", "bash-session"),
    "c": ("h",),
    "cpp": ("c++", "cc", "cxx", "hpp", "c plus plus"),
    "csharp": ("c#", "cs"),
    "css": (),
    "dockerfile": ("docker", "dockefile", "docker-file"),
    "fortran": ("f90", "f95", "fortran90"),
    "fsharp": ("f#", "fs"),
    "go": ("golang",),
    "haskell": ("hs",),
    "html": ("htm", "html5", "xhtml"),
    "java": (),
    "javascript": ("js", "javasript", "javscript", "java script", "node", "nodejs", "node.js", "mjs", "es6"),
    "json": ("jsonc", "json5"),
    "julia": ("jl",),
    "jsx": ("javascriptreact",),
    "kotlin": ("kt", "kts"),
    "latex": ("tex",),
    "makefile": ("make", "mk"),
    "markdown": ("md",),
    "matlab": ("octave",),
    "mysql": (),
    "objective-c": ("objc", "objectivec", "obj-c"),
    "perl": ("pl",),
    "php": ("php5", "php7"),
    "plaintext": ("text", "txt", "plain", "output"),
    "postgresql": ("postgres", "pgsql", "psql"),
    "powershell": ("ps1", "pwsh", "ps"),
    "python": ("py", "python2", "python3", "python4", "py3", "ipython", "ipython3", "pycon", "phyton", "pyhton"),
    "r": ("rscript",),
    "ruby": ("rb",),
    "rust": ("rs",),
    "scala": (),
    "sql": ("sqlite", "sqlite3", "tsql", "t-sql"),
    "swift": (),
    "toml": (),
    "tsx": ("typescriptreact",),
    "typescript": ("ts",),
    "vb": ("vb.net", "vbnet", "visual basic", "visualbasic"),
    "xml": (),
    "yaml": ("yml",),
}
_NAMES = {alias: name for name, aliases in _ALIASES.items() for alias in (name, *aliases)}


def normal_language(name: str) -> str:
    """The one name of a language for all its spellings (py3: python); an unknown one in lower case.

    Readers keep the name that the source gives; exporters that choose a tool by language ask here.
    """
    lowered = name.strip().lower()
    return _NAMES.get(lowered, lowered)
