"""How the schema came to be, one step a file, each run once per store and never edited after it was released.

A step goes forward only: an older Holdfast refuses a newer schema and touches nothing. Steps write their tables out and
import none of today's. A step that changes a rule of `rules.py` lays all of them anew and states their fingerprint.
"""
