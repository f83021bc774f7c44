//! Backup, proof, clone, fingerprint, migrations and swap of a PostgreSQL database. Knows no release.
