"""Other programs: started, followed and ended in one place, which nothing else does."""
