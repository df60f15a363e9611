# What machines that share their orders ([state] backend = "consul") may do beside policy.hcl: write below state.prefix,
# and hold a session so that each is known to be alive.
#
#   consul acl policy create -name upstreamd-pair -rules @pair.hcl

key_prefix "upstreamd/" {
  policy = "write"
}

session_prefix "" {
  policy = "write"
}
