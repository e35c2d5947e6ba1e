"""The first part of the page: who is ranked, what was compared, and the sentences on it."""
