"""The command line: words in, words and exit codes out; everything else is in the rooms above."""
