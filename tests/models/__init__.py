"""Tests of the networks. A package, for tests of other folders have files of the same names."""
