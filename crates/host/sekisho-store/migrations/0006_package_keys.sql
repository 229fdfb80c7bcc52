-- For SEs with which of the design system's keys a package is: others are right to refuse it, and are offered nothing of it.
ALTER TABLE packages ADD COLUMN designer TEXT NOT NULL DEFAULT '';     -- the public key that it is signed with, in hex; empty: uploaded before this was written down
ALTER TABLE packages ADD COLUMN key_version BIGINT NOT NULL DEFAULT 0; -- of the keys that SEs obey which take it; 0: not known
