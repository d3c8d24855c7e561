"""`python -m thriftgrad` is `thriftgrad`."""

from thriftgrad.cli import main

if __name__ == "__main__":
    main()
