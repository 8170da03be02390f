output "base_url" {
  description = "What `url` of an endpoint in scoreline.toml begins with; /workspaces/ID/services/ID/jobs follows."
  value       = "${data.azurerm_api_management.this.gateway_url}/${var.api_path}"
}

output "subscription_keys" {
  description = "The primary key of each caller's subscription: `terraform output -json subscription_keys`."
  value       = { for name, subscription in azurerm_api_management_subscription.this : name => subscription.primary_key }
  sensitive   = true
}
