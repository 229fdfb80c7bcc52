-- Identifiers are lower-case hex text, times are Unix seconds, everything else is what its name says.
CREATE TABLE devices (
    se_id      TEXT PRIMARY KEY,
    kvn        BIGINT NOT NULL,
    access     TEXT NOT NULL,              -- allowed | blocked
    version    BIGINT NOT NULL DEFAULT 0,  -- of the OS part, as the last receipt or request said
    created_at BIGINT NOT NULL
);

CREATE TABLE packages (
    package_id TEXT PRIMARY KEY,
    version    BIGINT NOT NULL,
    custody    BIGINT NOT NULL,
    bytes      BLOB NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE campaigns (
    id                TEXT PRIMARY KEY,
    name              TEXT NOT NULL,
    package_id        TEXT NOT NULL REFERENCES packages (package_id),
    state             TEXT NOT NULL,            -- draft | running | paused | aborted | done
    reason            TEXT NOT NULL DEFAULT '', -- why it is in this state
    rest_open         BOOLEAN NOT NULL,         -- the canary cohort has passed
    success_threshold BIGINT NOT NULL,          -- per cent of the canary cohort
    error_threshold   BIGINT NOT NULL,          -- failed targets at which the campaign pauses itself
    attempts_max      BIGINT NOT NULL,
    delivery          BLOB NOT NULL,
    delivery_sha256   BLOB NOT NULL,
    created_at        BIGINT NOT NULL
);

CREATE TABLE targets (
    campaign TEXT NOT NULL REFERENCES campaigns (id),
    se_id    TEXT NOT NULL REFERENCES devices (se_id),
    cohort   BIGINT NOT NULL,           -- 0 canary, 1 the rest
    state    TEXT NOT NULL,             -- pending | authorised | updated | failed
    attempts BIGINT NOT NULL DEFAULT 0, -- reported failures
    resumed  BOOLEAN NOT NULL DEFAULT FALSE,
    PRIMARY KEY (campaign, se_id)
);
CREATE INDEX targets_by_device ON targets (se_id, state);

-- An SE's sequence counter is used for one authorisation only; the row is durable before the authorisation leaves.
CREATE TABLE authorisations (
    se_id            TEXT NOT NULL,
    sequence_counter BIGINT NOT NULL,
    campaign         TEXT NOT NULL,
    splice           BIGINT NOT NULL,
    bytes            BLOB NOT NULL,
    PRIMARY KEY (se_id, sequence_counter)
);

-- What happened, in order; rows are never changed.
CREATE TABLE events (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    at       BIGINT NOT NULL,
    campaign TEXT NOT NULL,
    se_id    TEXT NOT NULL,
    kind     TEXT NOT NULL,
    detail   TEXT NOT NULL
);
