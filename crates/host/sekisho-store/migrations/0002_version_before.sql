-- The version that the SE said it had when it asked for this campaign's authorisation: what its receipt must call the previous one. NULL: it has not asked.
ALTER TABLE targets ADD COLUMN version_before BIGINT;
