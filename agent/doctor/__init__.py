# SPDX-License-Identifier: Apache-2.0
"""`lbctl doctor`: what this machine has and lacks for its part. machine reads it, findings judges it."""
