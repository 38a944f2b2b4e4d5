"""`python -m verimargin.commands` is `verimargin`, in the running Python's environment."""

from .main import main

main()
