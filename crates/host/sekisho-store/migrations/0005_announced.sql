-- The paging message that tells the devices of a campaign: a server that starts again tells nobody a second time, and takes back what is over. The
-- time until when it stands tells it from a message of another paging database that has the same order.
ALTER TABLE campaigns ADD COLUMN announced_order BIGINT; -- 0: none; NULL: made before this was written down, told again at its next report
ALTER TABLE campaigns ADD COLUMN announced_until BIGINT NOT NULL DEFAULT 0; -- seconds since 1970
