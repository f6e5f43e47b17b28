"""The two command-line programs; parsing and printing only."""
