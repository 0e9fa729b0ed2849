"""A bundle behind a port: requests are gathered into passes, tenants see their own classes, and a class can be erased.

The session of `pfm_export.serving` answers; here is what stands between it and the network. No torch.
"""
