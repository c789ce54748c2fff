"""The version of this package: whoever builds it, and a running node, read it here."""

VERSION = "0.1.0.dev0"
