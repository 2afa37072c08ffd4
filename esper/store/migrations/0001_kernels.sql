-- Artifacts by name. `content` is stored uncompressed, so that its length is known without reading it.
CREATE TABLE esper.kernels (
    kernel_id text NOT NULL CHECK (kernel_id ~ '^[0-9a-f]{64}$'),
    sha256 text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    bytes bigint NOT NULL CHECK (bytes = octet_length(content)),
    content bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    stored_at timestamptz NOT NULL DEFAULT now(),
    used_at timestamptz,
    PRIMARY KEY (kernel_id, sha256),
    CONSTRAINT kernels_content_has_its_name CHECK (encode(sha256(content), 'hex') = sha256)
);
ALTER TABLE esper.kernels ALTER COLUMN content SET STORAGE EXTERNAL;
COMMENT ON COLUMN esper.kernels.stored_at IS 'last put; garbage collection counts from here';
COMMENT ON COLUMN esper.kernels.used_at IS 'last read, to the day';
