--@include page
-- missed: the next page of what a stream has missed.
-- KEYS: 1 outbox   ARGV: 1 last offset of the stream, 2 bytes of a page, 3 messages of a page, 4 repeated
return page(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
