"""Who is calling: SPIFFE IDs, XFCC, the caller's certificate, and their agreement."""
