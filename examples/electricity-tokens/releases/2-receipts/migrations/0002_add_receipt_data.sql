CREATE TABLE "ReceiptData" (
    "id" TEXT NOT NULL,
    "purchaseId" TEXT NOT NULL,
    "tokenNumber" TEXT,
    "accountNumber" TEXT,
    "kwhPurchased" DOUBLE PRECISION NOT NULL,
    "energyCostZWG" DOUBLE PRECISION NOT NULL,
    "debtZWG" DOUBLE PRECISION NOT NULL,
    "reaZWG" DOUBLE PRECISION NOT NULL,
    "vatZWG" DOUBLE PRECISION NOT NULL,
    "totalAmountZWG" DOUBLE PRECISION NOT NULL,
    "tenderedZWG" DOUBLE PRECISION NOT NULL,
    "transactionDateTime" TIMESTAMP NOT NULL,
    "createdAt" TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "ReceiptData_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "ReceiptData_purchaseId_key" UNIQUE ("purchaseId"),
    CONSTRAINT "ReceiptData_purchaseId_fkey" FOREIGN KEY ("purchaseId")
        REFERENCES "TokenPurchase" ("id") ON UPDATE CASCADE ON DELETE CASCADE
);
