"""The command line: reads words and files, calls the rooms above, prints and returns an exit code.

A module or a folder for each command of ``sppnet``, named after it: the module (or ``__init__``)
has the flags, and the work is in files that are imported when the command runs, so that ``--help``
is quick. What they share: ``main.py`` (entry point, exit codes, signals), ``options.py`` (flags of
several commands), ``settings.py`` (flags made from the classes in ``sppnet.config``),
``console.py`` (what is printed) and ``progress.py`` (how far it is). Start with ``main.py``.
"""
