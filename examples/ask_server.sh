#!/bin/sh
# Ask `pfm serve` with curl (7.87 or newer): sh ask_server.sh http://localhost:8000 MODEL FILE [CLASS LEFT OUT]
address=$1 model=$2 file=$3 without=$4
ask() { # TOKEN is sent where it is set
    curl --silent --show-error --fail-with-body ${TOKEN:+--header "Authorization: Bearer $TOKEN"} "$@" && echo
}
ask "$address/v2/models/$model" # inputs, and the classes there are
ask "$address/v1/predict" --url-query "model=$model" --data-binary "@$file" # label and probabilities
[ -z "$without" ] || ask "$address/v1/predict" --url-query "model=$model" --url-query "without=$without" --data-binary "@$file"
