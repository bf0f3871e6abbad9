"""`python -m alumnus`: the command line, as `torchrun -m alumnus` needs it."""

from alumnus.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
