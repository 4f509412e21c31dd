"""The command line: one file per group of commands.

Exit codes: 0 done, 1 failed, 2 wrong use or bad input. A user's mistake never shows a traceback;
`errata --debug …` shows it.
"""

from errata.cli.main import app, main

__all__ = ["app", "main"]
