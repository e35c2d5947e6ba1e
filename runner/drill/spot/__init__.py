"""The drill's trace of spot machines: `trace` draws when nodes come and go, `replay` has them do so under a sweep."""
