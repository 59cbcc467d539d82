"""Makes the man pages: of the commands' help, and of Markdown documents."""
