"""Settings of the tasks, as plain values: what a user may choose, and what each value may be.

Nothing here needs torch, so that the command line shows its help at once. The rooms that do the
work take their legal words and defaults from here. Start with ``detection.py``; ``fields.py`` says
how a setting and its rule are written.
"""
