data "azurerm_api_management" "this" {
  name                = var.api_management_name
  resource_group_name = var.resource_group_name
}

locals {
  # What policy.xml names in {{…}}. None is a secret: the web service's key stays with the callers.
  named_values = {
    azureml-calls-per-minute = var.calls_per_minute
    azureml-calls-per-week   = var.calls_per_week
    azureml-backend-timeout  = var.backend_timeout_seconds
  }
}

resource "azurerm_api_management_named_value" "this" {
  for_each = local.named_values

  name                = each.key
  display_name        = each.key
  value               = tostring(each.value)
  api_management_name = data.azurerm_api_management.this.name
  resource_group_name = data.azurerm_api_management.this.resource_group_name
}

# Its name is what policy.xml asks for.
resource "azurerm_api_management_backend" "azureml" {
  name                = "azureml"
  description         = "Azure ML web service"
  protocol            = "http"
  url                 = var.backend_url
  api_management_name = data.azurerm_api_management.this.name
  resource_group_name = data.azurerm_api_management.this.resource_group_name

  tls {
    validate_certificate_chain = true
    validate_certificate_name  = true
  }
}

resource "azurerm_api_management_api" "azureml" {
  name                  = "azureml-demo"
  display_name          = "Azure ML Demo API"
  revision              = "1"
  path                  = var.api_path
  protocols             = ["https"]
  service_url           = var.backend_url
  subscription_required = true
  api_management_name   = data.azurerm_api_management.this.name
  resource_group_name   = data.azurerm_api_management.this.resource_group_name

  subscription_key_parameter_names {
    header = "Ocp-Apim-Subscription-Key"
    query  = "subscription-key"
  }

  import {
    content_format = "openapi"
    content_value  = file("${path.module}/../openapi.yaml")
  }
}

resource "azurerm_api_management_api_policy" "azureml" {
  api_name            = azurerm_api_management_api.azureml.name
  api_management_name = data.azurerm_api_management.this.name
  resource_group_name = data.azurerm_api_management.this.resource_group_name
  xml_content         = file("${path.module}/../policy.xml")

  # A policy that names what is not there can't be saved.
  depends_on = [
    azurerm_api_management_named_value.this,
    azurerm_api_management_backend.azureml,
  ]
}

# A product of its own, since the limits of the stock Starter would come on top of the policy's.
resource "azurerm_api_management_product" "azureml" {
  product_id            = "azureml-demo"
  display_name          = "Azure ML Demo"
  description           = "Azure ML web services, with a limit of calls for each subscription."
  subscription_required = true
  approval_required     = true
  subscriptions_limit   = 1
  published             = true
  api_management_name   = data.azurerm_api_management.this.name
  resource_group_name   = data.azurerm_api_management.this.resource_group_name
}

resource "azurerm_api_management_product_api" "azureml" {
  api_name            = azurerm_api_management_api.azureml.name
  product_id          = azurerm_api_management_product.azureml.product_id
  api_management_name = data.azurerm_api_management.this.name
  resource_group_name = data.azurerm_api_management.this.resource_group_name
}

resource "azurerm_api_management_subscription" "this" {
  for_each = var.subscribers

  display_name        = each.key
  product_id          = azurerm_api_management_product.azureml.id
  state               = "active"
  allow_tracing       = false # A trace shows Authorization to whoever asks for it.
  api_management_name = data.azurerm_api_management.this.name
  resource_group_name = data.azurerm_api_management.this.resource_group_name
}
