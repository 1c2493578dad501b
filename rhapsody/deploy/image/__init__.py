"""The container image: built, tried, described and sent; and what runs inside."""
