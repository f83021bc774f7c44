ALTER TABLE "TokenPurchase" ADD COLUMN "currency" TEXT NOT NULL DEFAULT 'ZWG';

UPDATE "TokenPurchase" SET "currency" = 'USD' WHERE "isEmergency";

CREATE TABLE "Conversion" (
    "purchaseId" TEXT NOT NULL,
    "currency" TEXT NOT NULL,
    "rate" DOUBLE PRECISION NOT NULL,
    "createdAt" TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "Conversion_pkey" PRIMARY KEY ("purchaseId", "currency"),
    CONSTRAINT "Conversion_purchaseId_fkey" FOREIGN KEY ("purchaseId")
        REFERENCES "TokenPurchase" ("id") ON UPDATE CASCADE ON DELETE CASCADE
);
