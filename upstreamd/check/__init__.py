"""Check: which endpoints are well."""
