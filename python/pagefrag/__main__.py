"""``python -m pagefrag``: the command line."""

from pagefrag.cli import run

if __name__ == "__main__":
    run()
