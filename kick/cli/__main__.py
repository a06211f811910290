"""`python -m kick.cli`."""

from kick.cli import main

if __name__ == "__main__":
    main()
