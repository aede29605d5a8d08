"""``python -m sppnet`` is the command ``sppnet``."""

from sppnet.app.main import run

if __name__ == "__main__":
    run()
