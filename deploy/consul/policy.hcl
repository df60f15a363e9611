# What upstreamd may do in Consul, and nothing else: it only reads (machines
# that share their operators' orders also write: pair.hcl). Replace "app" by the services it asks for.
#
#   consul acl policy create -name upstreamd -rules @policy.hcl
#   consul acl token create -description upstreamd -policy-name upstreamd
#
# Without a right, Consul does not refuse: it answers with an empty list, which upstreamd holds and reports.

service "app" {
  policy = "read"
}

# The node of an instance, and its health: a service whose node may not be read is left out of answers.
node_prefix "" {
  policy = "read"
}

# Only for [services.NAME.consul] query = "app".
query "app" {
  policy = "read"
}
