"""One containers-storage: its records, locks and big data, read and written."""
