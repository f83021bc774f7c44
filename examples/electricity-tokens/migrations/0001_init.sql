CREATE TABLE "User" (
    "id" TEXT NOT NULL,
    "email" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "role" TEXT NOT NULL DEFAULT 'USER',
    "createdAt" TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "User_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "User_email_key" UNIQUE ("email"),
    CONSTRAINT "User_role_check" CHECK ("role" IN ('USER', 'ADMIN'))
);

CREATE TABLE "TokenPurchase" (
    "id" TEXT NOT NULL,
    "totalTokens" DOUBLE PRECISION NOT NULL,
    "totalPayment" DOUBLE PRECISION NOT NULL,
    "meterReading" DOUBLE PRECISION NOT NULL,
    "isEmergency" BOOLEAN NOT NULL DEFAULT false,
    "purchaseDate" TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "createdBy" TEXT NOT NULL,
    "createdAt" TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "TokenPurchase_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "TokenPurchase_createdBy_fkey" FOREIGN KEY ("createdBy")
        REFERENCES "User" ("id") ON UPDATE CASCADE ON DELETE RESTRICT
);

CREATE INDEX "TokenPurchase_purchaseDate_idx" ON "TokenPurchase" ("purchaseDate" DESC, "id");

CREATE TABLE "UserContribution" (
    "id" TEXT NOT NULL,
    "purchaseId" TEXT NOT NULL,
    "userId" TEXT NOT NULL,
    "contributionAmount" DOUBLE PRECISION NOT NULL,
    "tokensConsumed" DOUBLE PRECISION NOT NULL,
    "createdAt" TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "UserContribution_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "UserContribution_purchaseId_key" UNIQUE ("purchaseId"),
    CONSTRAINT "UserContribution_purchaseId_fkey" FOREIGN KEY ("purchaseId")
        REFERENCES "TokenPurchase" ("id") ON UPDATE CASCADE ON DELETE CASCADE,
    CONSTRAINT "UserContribution_userId_fkey" FOREIGN KEY ("userId")
        REFERENCES "User" ("id") ON UPDATE CASCADE ON DELETE RESTRICT
);

-- Purchases entered without naming a user belong to the household.
INSERT INTO "User" ("id", "email", "name", "role")
VALUES ('household', 'household@example.com', 'Household', 'ADMIN');
