CREATE TABLE models (
    digest VARCHAR(64) NOT NULL,
    name TEXT NOT NULL,
    method TEXT NOT NULL,
    preset TEXT NOT NULL,
    dataset TEXT NOT NULL,
    first_used BIGINT NOT NULL,
    description TEXT NOT NULL,
    PRIMARY KEY (digest)
);

CREATE TABLE inspections (
    id VARCHAR(26) COLLATE "C" NOT NULL,
    time BIGINT NOT NULL,
    source TEXT NOT NULL,
    part TEXT,
    path TEXT,
    model VARCHAR(64) NOT NULL,
    image VARCHAR(64),
    map VARCHAR(64),
    width INTEGER,
    height INTEGER,
    score DOUBLE PRECISION,
    p_value DOUBLE PRECISION,
    threshold DOUBLE PRECISION,
    decision TEXT NOT NULL,
    regions TEXT NOT NULL,
    error TEXT,
    seconds DOUBLE PRECISION NOT NULL,
    verdict TEXT,
    files_removed BIGINT,
    PRIMARY KEY (id)
);

CREATE INDEX ix_inspections_model_id ON inspections (model, id);

CREATE INDEX ix_inspections_decision_id ON inspections (decision, id);

CREATE INDEX ix_inspections_part_id ON inspections (part, id);

CREATE INDEX ix_inspections_verdict_id ON inspections (verdict, id);

CREATE INDEX ix_inspections_image ON inspections (image);

CREATE INDEX ix_inspections_map ON inspections (map);

CREATE INDEX ix_inspections_files ON inspections (id) WHERE files_removed IS NULL AND (image IS NOT NULL OR map IS NOT NULL);

CREATE TABLE verdicts (
    number SERIAL NOT NULL,
    id VARCHAR(26) COLLATE "C" NOT NULL,
    inspection VARCHAR(26) COLLATE "C" NOT NULL,
    time BIGINT NOT NULL,
    verdict TEXT NOT NULL,
    note TEXT NOT NULL,
    by TEXT NOT NULL,
    PRIMARY KEY (number),
    UNIQUE (id),
    FOREIGN KEY(inspection) REFERENCES inspections (id)
);

CREATE INDEX ix_verdicts_inspection ON verdicts (inspection);

CREATE TABLE alarms (
    id VARCHAR(26) COLLATE "C" NOT NULL,
    model VARCHAR(64) NOT NULL,
    time BIGINT NOT NULL,
    kind TEXT NOT NULL,
    value DOUBLE PRECISION NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (id)
);

CREATE INDEX ix_alarms_model ON alarms (model);
