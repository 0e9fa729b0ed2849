"""The whole story on real data, told twice: what `pfm demo` does."""
