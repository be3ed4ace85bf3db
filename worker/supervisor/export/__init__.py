"""Exports: files made of an audit's samples and scores, whatever their number, in memory of a few row groups."""
