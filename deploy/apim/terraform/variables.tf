variable "resource_group_name" {
  type        = string
  description = "Resource group of the API Management instance."
}

variable "api_management_name" {
  type        = string
  description = "Name of the API Management instance, which must be there: to make one takes half an hour and costs money."
}

variable "backend_url" {
  type        = string
  default     = "https://ussouthcentral.services.azureml.net"
  description = "Where the web service is: scheme and host, without a path."

  validation {
    condition     = can(regex("^https://[A-Za-z0-9.-]+$", var.backend_url))
    error_message = "Write https:// and a host, without a path or a slash at the end: the paths are the operations'."
  }
}

variable "api_path" {
  type        = string
  default     = "azureml-demo"
  description = "API URL suffix: the first part of the API's paths at the gateway."

  validation {
    condition     = can(regex("^[A-Za-z0-9._-]+$", var.api_path))
    error_message = "Write one segment of a path, like azureml-demo."
  }
}

variable "calls_per_minute" {
  type        = number
  default     = 5
  description = "Calls a minute for each subscription; beyond it 429 with Retry-After. The stock product Starter has 5."

  validation {
    condition     = var.calls_per_minute >= 1 && floor(var.calls_per_minute) == var.calls_per_minute
    error_message = "Write a whole number, at least 1."
  }
}

variable "calls_per_week" {
  type        = number
  default     = 100
  description = "Calls a week for each subscription; beyond it 403 with Retry-After. The stock product Starter has 100."

  validation {
    condition     = var.calls_per_week >= 1 && floor(var.calls_per_week) == var.calls_per_week
    error_message = "Write a whole number, at least 1."
  }
}

variable "backend_timeout_seconds" {
  type        = number
  default     = 120
  description = "How long the gateway waits for the web service. Scoring a request may take 90 seconds."

  validation {
    condition     = var.backend_timeout_seconds >= 1 && var.backend_timeout_seconds <= 240
    error_message = "Write 1 to 240 seconds: connections that are silent for longer are cut on Azure's way."
  }
}

variable "subscribers" {
  type        = set(string)
  default     = ["scoreline"]
  description = "One subscription, with two keys of its own, for each of these callers."
}
