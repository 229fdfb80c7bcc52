-- How many devices have proved which version of the design system's keys, counted in the transaction that changes it: a count of a whole fleet at each
-- page would take a third of a second for a million.
CREATE TABLE key_version_counts (
    key_version BIGINT PRIMARY KEY,
    devices     BIGINT NOT NULL
);
INSERT INTO key_version_counts SELECT key_version, COUNT(*) FROM devices GROUP BY key_version;

CREATE TRIGGER devices_registered AFTER INSERT ON devices BEGIN
    INSERT INTO key_version_counts VALUES (NEW.key_version, 1) ON CONFLICT (key_version) DO UPDATE SET devices = devices + 1;
END;
CREATE TRIGGER devices_changed_keys AFTER UPDATE OF key_version ON devices WHEN OLD.key_version <> NEW.key_version BEGIN
    UPDATE key_version_counts SET devices = devices - 1 WHERE key_version = OLD.key_version;
    INSERT INTO key_version_counts VALUES (NEW.key_version, 1) ON CONFLICT (key_version) DO UPDATE SET devices = devices + 1;
END;
CREATE TRIGGER devices_removed AFTER DELETE ON devices BEGIN
    UPDATE key_version_counts SET devices = devices - 1 WHERE key_version = OLD.key_version;
END;

ALTER TABLE devices ADD COLUMN kvn_said BIGINT NOT NULL DEFAULT 0; -- another SCP03 key set than kvn, which the device said and which is in the events; 0: none
