"""bootc: its command line with our recipe inside it or around it."""
