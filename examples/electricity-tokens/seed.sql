-- Fills an empty, migrated database: 50 users and as many purchases as the setting says, 100 unless told.
--   PGOPTIONS='-c seed.purchases=100000' psql --set ON_ERROR_STOP=1 -1 -f seed.sql "$DATABASE_URL"

INSERT INTO "User" ("id", "email", "name")
SELECT 'user-' || n, 'user-' || n || '@example.com', 'User ' || n
FROM generate_series(1, 50) n;

INSERT INTO "TokenPurchase"
    ("id", "totalTokens", "totalPayment", "meterReading", "isEmergency", "purchaseDate", "createdBy")
SELECT 'seed-' || n,
       20 + n % 80,
       (20 + n % 80) * 3.5,
       n * 20.0,
       n % 17 = 0,
       TIMESTAMP '2025-11-08 10:00:00' - n * INTERVAL '1 minute',
       'user-' || 1 + n % 50
FROM generate_series(1, coalesce(nullif(current_setting('seed.purchases', true), ''), '100')::integer) n;

INSERT INTO "UserContribution" ("id", "purchaseId", "userId", "contributionAmount", "tokensConsumed")
SELECT 'contribution-' || "id", "id", "createdBy", "totalPayment", "totalTokens"
FROM "TokenPurchase"
WHERE "id" LIKE 'seed-%' AND NOT "isEmergency";

ANALYZE "User", "TokenPurchase", "UserContribution";
