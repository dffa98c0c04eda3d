"""Tests of evodyn: closed forms, independent references, properties and negative controls."""
