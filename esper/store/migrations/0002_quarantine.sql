-- Artifacts whose content was not that of their name, for inspection.
CREATE TABLE esper.quarantined_kernels (
    kernel_id text NOT NULL,
    sha256 text NOT NULL,
    content bytea NOT NULL,
    stored_at timestamptz NOT NULL,
    quarantined_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kernel_id, sha256)
);
ALTER TABLE esper.quarantined_kernels ALTER COLUMN content SET STORAGE EXTERNAL;
