"""`python -m smar_model.cli`."""

from smar_model.cli import main

if __name__ == "__main__":
    main()
