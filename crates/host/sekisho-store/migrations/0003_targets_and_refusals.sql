-- Version 2 of the messages: what a package changes, which design system's keys an SE obeys, what an authorisation does, what its SE has refused.
ALTER TABLE packages ADD COLUMN target BIGINT NOT NULL DEFAULT 1;          -- 1 the OS part, 2 the design system's keys

ALTER TABLE devices ADD COLUMN key_version BIGINT NOT NULL DEFAULT 0;      -- of the design system's keys, as the last receipt proved; 0: none has
ALTER TABLE devices ADD COLUMN key_version_said BIGINT NOT NULL DEFAULT 0; -- as its device said last; 0: it has not
CREATE INDEX devices_by_key_version ON devices (key_version, se_id);

ALTER TABLE targets ADD COLUMN refusals BIGINT NOT NULL DEFAULT 0;         -- failures that the SE itself has proved; attempts are those only reported

ALTER TABLE authorisations ADD COLUMN version BIGINT NOT NULL DEFAULT 1;   -- of P_AUT
ALTER TABLE authorisations ADD COLUMN wants BIGINT NOT NULL DEFAULT 3;     -- what it does: 1 load, 2 activate, 3 both
ALTER TABLE authorisations ADD COLUMN pauses BIGINT NOT NULL DEFAULT 0;    -- how often broadcast mode is left and entered again
ALTER TABLE authorisations ADD COLUMN refused BOOLEAN NOT NULL DEFAULT FALSE; -- its SE's refusal has been counted
UPDATE authorisations SET wants = 2 WHERE splice = 0;
ALTER TABLE authorisations DROP COLUMN splice;
