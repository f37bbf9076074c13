"""Tests of what is measured. A package, for tests of other folders have files of the same names."""
