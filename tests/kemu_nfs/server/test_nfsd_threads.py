"""M1 is writing this file (see /tmp/plan/M1-claims.txt)."""
