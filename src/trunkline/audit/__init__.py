"""What happened, to whom, by whom: from the wire to one row each in Postgres."""
